"""Say how long you have; inflame gives you the best classifier it can build in that time.

`inflame --help` shows the way from a folder of pictures to a model that others can use.
In Python: `from inflame.artifact import getdata, split_datafiles`.
"""

__version__ = "0.1.0"
