#!/bin/bash
# Trains on several machines without a scheduler. Start it on each machine, in the checkout or with the package installed:
#
#   FIRST=node1 MAX_HOSTS=2 PROCESSES=8 bash docs/cluster/train_hosts.sh --data /local/rollouts --out /shared/runs/vae
#
# FIRST is a machine that all others reach by this name. MAX_HOSTS is the number of machines; training also goes on with
# fewer. PROCESSES is the number of GPUs of this machine, or 1 without GPU. All arguments go to train_vae.
# --data may be on each machine's own disk. --out has to be a folder that all machines share.

set -euo pipefail
exec torchrun --nnodes=1:"${MAX_HOSTS:?number of machines}" --nproc_per_node="${PROCESSES:-1}" --max_restarts=20 \
    --rdzv_backend=c10d --rdzv_id="${RUN_ID:-world_models}" --rdzv_endpoint="${FIRST:?name of the first machine}:29500" \
    -m world_models.train_vae --resume true "$@"
