"""Verification: does the rig explain the recordings?"""
