"""Import into HDF5 episodes and export from them, one module a format; nothing here is read in place."""
