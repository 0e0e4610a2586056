#!/bin/sh
#SBATCH --job-name=inflame-mnist-378872c31320
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=15G
#SBATCH --output=/shared/logs/%j.txt
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --gpus-per-node=1
#SBATCH --partition=cheap
#SBATCH --time=66
export INFLAME_JOB='{"arguments": ["hyperparam.lr=0.1", "name=it'"'"'s"], "attempts": 5, "code": "/shared", "count": 2, "environment": ["TOKEN"], "inputs": [], "max_money": null, "max_time": 3600, "model": "mnist", "output": "/shared/out", "price": null, "tree": "0123456789012345678901234567890123456789"}'
module load python
exec srun --export=ALL --kill-on-bad-exit=1 sh -c 'W="${INFLAME_WORK:-$(mktemp -d)}" && mkdir -p "$W" && tar xzf /shared/code/c0ffee.tar.gz -C "$W" && exec "$(command -v python || command -v python3)" "$W/.inflame/bootstrap.py"'
