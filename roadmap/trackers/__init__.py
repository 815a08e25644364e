"""Experiment trackers: TensorBoard, Trackio, MLflow and Weights & Biases get the curves and results of runs.

A run only writes files. A process of low priority reads them and calls the trackers, so that a tracker that is slow or
fails has no effect on a run. What a tracker gets is a function of these files: after a resume, it gets the whole run
again in place of what it had, so that no iteration is there twice.
"""
