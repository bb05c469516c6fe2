"""When things are made: definitions, jobs, schedules, sensors, and launching an experiment from
the command line.
"""
