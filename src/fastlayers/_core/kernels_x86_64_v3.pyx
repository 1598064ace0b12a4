include "jobs.pxi"
