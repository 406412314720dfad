#!/usr/bin/env bash
# A permutation test as SLURM jobs: the maps are stacked once, an array of jobs computes a part of
# the shuffles each, and a last job puts the parts together. On the login node:
#
#     bash slurm.sh
#
# A job of the array that failed or ran out of time is computed again by itself, and goes on from
# its checkpoint:   sbatch --array=7 slurm.sh part   (then: sbatch slurm.sh merge)
#
# What a job needs; add the partition and the account as your cluster wants them:
#SBATCH --cpus-per-task=4
#SBATCH --mem=8G
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@120
set -euo pipefail

# What is to be tested: change this.
maps=(maps/sub-*_con.nii.gz)
mask=mask.nii.gz
model=(--design participants.tsv --columns age,sex --intercept --contrast age)
test=(--statistics voxelwise,tfce --n-permutations 10000)
n_parts=20
folder=age                  # of everything that is made: on a disk that all nodes share

store=$folder/cohort.zarr
export GPUSTATS_THREADS=${SLURM_CPUS_PER_TASK:-}

submit() {
    mkdir -p "$folder/logs"
    local options=(--parsable --output="$folder/logs/%x-%A_%a.txt" --kill-on-invalid-dep=yes)
    local stack parts
    stack=$(sbatch "${options[@]}" --job-name=stack "$0" stack)
    parts=$(sbatch "${options[@]}" --job-name=part --dependency="afterok:$stack" \
        --array="1-$n_parts" "$0" part)
    sbatch "${options[@]}" --job-name=merge --dependency="afterok:$parts" "$0" merge
}

# exec: the signal before the end of a job's time reaches gpustats, which ends in good order
case ${1:-submit} in
submit) submit ;;
stack) exec gpustats stack "${maps[@]}" --mask "$mask" --output "$store" ;;
part)
    part=$SLURM_ARRAY_TASK_ID
    exec gpustats permute "$store" "${model[@]}" "${test[@]}" --shard "$part/$n_parts" \
        --memory 4G --checkpoint "$folder/unfinished/$part" --output-dir "$folder/parts" ;;
merge) exec gpustats merge "$folder/parts" --output-dir "$folder/results" ;;
*) echo "usage: $0 [stack | part | merge]" >&2; exit 2 ;;
esac
