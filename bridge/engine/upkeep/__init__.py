"""What every engine does beside the work.

`sweep` beats and acts on clocks that have run out, `trim` keeps bounds, `wake` hears other processes.
"""
