"""Arms and grippers: the poses of the flange and the fingers, from joint readings."""
