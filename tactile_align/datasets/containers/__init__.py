"""Import of other formats into HDF5 episodes and export to them, one module per format.

Recordings in these formats must be converted first; no other module reads them directly.
"""
