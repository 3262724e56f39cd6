#!/usr/bin/env bash
# Submit a study to Slurm: an array of its subjects, then group and book when all have ended, failed ones too.
#   workflow/slurm_submit.sh STUDY.toml [--out DIR]
# ASLPINN names the command where it is not on PATH; SBATCH_PARTITION and SBATCH_ACCOUNT are Slurm's own.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
count=$("${ASLPINN:-aslpinn}" study "$@" --list | wc -l)
array=$(sbatch --parsable --array="1-${count}%${AT_A_TIME:-100}" "$here/slurm_array.sh" "$@")
collect=$(printf '%q ' "${ASLPINN:-aslpinn}" study "$@" --collect)
sbatch --dependency="afterany:${array%%;*}" --job-name=aslpinn-book --cpus-per-task=4 --mem=4G --time=01:00:00 --wrap "$collect"
