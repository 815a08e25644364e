"""A sitecustomize.py that kills a run at its first checkpoint, once."""

KILLS_ONE_RUN = """
import os, signal

original = os.replace

def sabotaged(source, target, **options):
    original(source, target, **options)
    if str(target).endswith("checkpoint.pt"):
        try:
            os.close(os.open("killed", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)

os.replace = sabotaged
"""
