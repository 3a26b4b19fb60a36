"""The process, the command line, files.

cli          from flags and YAML files to a config, and from a command line to a command; on top of settings,
misfits, config_files, plain_yaml
errors       errors for people
paths        paths that a person names
files        files written whole or not at all; on top of disks, locks and writers, which keep one writer a folder
untrusted    files that anybody may have written
typed_json   their JSON objects as dataclasses
host         cores, signals
executors    one function over many inputs: here, in processes (workers), on a Ray cluster
threads      several threads, with PyTorch in each
distributed  processes that train together
progress     progress bars
terminal     every line that is printed
"""
