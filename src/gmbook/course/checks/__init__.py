"""The checks of the exercise sheets, one file per chapter, named like it: chapters/06_ddpm is `checks/ddpm.py`."""
