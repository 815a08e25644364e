"""Exit codes of the commands and of the processes that runs train in."""

EXIT_COMPLETED = 0
EXIT_RUN_FAILED = 1  # a run failed or diverged, or an error of the operating system, or a bug
EXIT_BAD_INPUT = 2  # nothing was started or written
EXIT_STOPPED = 75  # stopped by a signal (EX_TEMPFAIL of sysexits.h): the same command resumes
EXIT_LOCKED = 76  # only between processes: the run is locked by another process
