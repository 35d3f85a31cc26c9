"""Import of recordings from other formats to HDF5 episodes, and export to other formats; one module per format.

Recordings in these formats must be converted before use, because no other module reads them. `verbs.data.convert`
chooses the module; an import returns `datasets.convert.Converted`.
"""
