#!/usr/bin/env bash
# One subject of a study as a task of a Slurm array, for sites without Snakemake. Submit with workflow/slurm_submit.sh.
#SBATCH --job-name=aslpinn
#SBATCH --cpus-per-task=2
#SBATCH --mem=2G
#SBATCH --time=00:15:00
#SBATCH --requeue
set -euo pipefail

key=$("${ASLPINN:-aslpinn}" study "$@" --list | sed -n "${SLURM_ARRAY_TASK_ID}p" | cut -f1)
if [ -z "$key" ]; then
  echo "the study has no subject number ${SLURM_ARRAY_TASK_ID}; submit it again" >&2
  exit 2
fi
exec "${ASLPINN:-aslpinn}" study "$@" -j 1 --only "$key"
