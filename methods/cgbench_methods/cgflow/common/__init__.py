"""What both recipes of the conditional flow use: design of training points, exploration, stages, training steps."""
