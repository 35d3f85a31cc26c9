"""Arms and grippers: from joint readings to where the flange and the fingers are."""
