"""`python -m roadmap`: the same as `python run_roadmap.py`."""

from roadmap.cli import main

if __name__ == "__main__":
    main()
