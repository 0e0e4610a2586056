#!/bin/sh
#SBATCH --job-name=inflame-mnist-79a74acc83ca
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=2
#SBATCH --mem=8G
#SBATCH --output=/shared/logs/%j.txt
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
#SBATCH --no-requeue
#SBATCH --time=66
export INFLAME_JOB='{"arguments": ["hyperparam.lr=0.1", "name=it'"'"'s"], "attempts": 5, "code": "/shared", "count": 1, "environment": ["TOKEN"], "inputs": [], "max_money": null, "max_time": 3600, "model": "mnist", "output": "/shared/out", "price": null, "tree": "0123456789012345678901234567890123456789"}'
module load python
exec srun --export=ALL --kill-on-bad-exit=1 sh -c 'W="${INFLAME_WORK:-$(mktemp -d)}" && mkdir -p "$W" && tar xzf /shared/code/c0ffee.tar.gz -C "$W" && exec "$(command -v python || command -v python3)" "$W/.inflame/bootstrap.py"'
