"""Containers of recordings; one module per format.

`tree` is the form in which HDF5 files, LeRobotDatasets (`lerobot_reader`) and Zarr stores (`zarr`) show their episodes;
`datasets.episodes.open_episode` and `list_episodes` read all of them. `lerobot` exports and imports datasets. Raw
X-Trainer recordings must be converted before use.
"""
