"""The way of a snapshot out of the recorder: host memory, and the sinks of its run."""
