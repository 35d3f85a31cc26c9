"""Line up what a robot feels with what its cameras see, and train a policy on it."""
