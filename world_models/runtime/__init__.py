"""The process, the command line, and files.

cli          reads flags and YAML files into a config, and runs a command; it uses settings, misfits, config_files,
plain_yaml
errors       errors for users
paths        paths that a user names
files        writes files completely or not at all; it uses disks, locks and writers, which allow one writer per folder
untrusted    reads files that anybody may have written
typed_json   reads JSON objects as dataclasses
host         cores and signals
executors    runs one function over many inputs: in this process, or in several (workers)
ray_work     runs one function over many inputs on the nodes of a Ray cluster; it uses ray_connection, which connects;
ray_cluster, the nodes; node_facts, the versions that all nodes must have; and ray_worker, the code that runs there
threads      runs PyTorch in several threads
distributed  processes that train together
gpu          work on a GPU that the CPU does not wait for
progress     progress bars
terminal     prints lines
"""
