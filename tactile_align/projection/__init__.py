"""From a rig and joint readings to the sensor's box in an image and the tokens inside it."""
