"""What every engine does beside the work.

`listing` keeps the list of requests true, `scheduled_commands` sends those whose time has come; `sweep` beats and acts
on clocks that have run out, `trim` keeps bounds, `wake` hears other processes.
"""
