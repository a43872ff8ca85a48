#!/bin/sh
# Installs what is missing of the Debian packages that Cairn needs.
#   sh tests/install-packages.sh [--for quickstart|check] [--dry-run]
#     --for quickstart  what building and running on a private cluster needs (the default)
#     --for check       that, and what the tests need
#     --dry-run         print the missing packages, one a line, and install nothing
# Needs root or sudo only if something is missing. No Slurm or munge service of the system is started.
set -u

# A line for each package: its name, and why it is needed.
for_quickstart='
gcc                           the C compiler
libc6-dev                     headers of the C library
make                          the build
autoconf                      makes configure
automake                      makes Makefile.in
autoconf-archive              configure checks that autoconf lacks
libtool                       shared libraries
pkg-config                    finds the libraries below
slurm-wlm                     Slurm, all of it
slurmctld                     its controller, for the private cluster
slurmd                        its node daemon, for the private cluster
slurm-client                  sbatch, srun, squeue, scontrol
slurm-wlm-basic-plugins       the PMIx, munge and scheduling plugins
munge                         authentication between the daemons
libpmix-dev                   a rank asks PMIx who it is
mpich                         mpiexec
libmpich-dev                  MPI between ranks
libhdf5-mpich-dev             datasets and checkpoints: parallel HDF5
hdf5-tools                    h5ls, to look into them
libdnnl-dev                   matrix products and bfloat16 on the CPU
libfyaml-dev                  configs
libxxhash-dev                 checksums
libjansson-dev                JSON
libhwloc-dev                  which cores are near a GPU
zlib1g-dev                    compressed text and datasets
iproute2                      ip, for the private cluster
util-linux                    unshare, nsenter, flock, setsid, for the private cluster
procps                        ps
python3                       tests/slurm/rounds: faults at random moments
dict-gcide                    a dictionary: 40 MB of English to train on
'
for_check='
libcriterion-dev              unit tests
valgrind                      memory checks
g++                           runs the cuda backend on the processor
clang                         the second compiler that must build Cairn
libomp-dev                    OpenMP for it
groff                         checks the man pages
python3-numpy                 reads golden values
python3-h5py-mpi              reads datasets and checkpoints as others would
'

say() { echo "install-packages: $*" >&2; }

names() { printf '%s\n' "$1" | awk 'NF { print $1 }'; }

purpose=quickstart
dry_run=no
while [ $# -gt 0 ]; do
    case $1 in
    --for) [ $# -ge 2 ] || { say '--for lacks its value'; exit 2; }; purpose=$2; shift ;;
    --for=*) purpose=${1#*=} ;;
    --dry-run) dry_run=yes ;;
    --help | -h) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) say "unknown option '$1'; --help lists them"; exit 2 ;;
    esac
    shift
done
case $purpose in
quickstart) wanted=$(names "$for_quickstart") ;;
check) wanted=$(names "$for_quickstart$for_check") ;;
*) say "--for takes quickstart or check, not '$purpose'"; exit 2 ;;
esac

command -v dpkg-query >/dev/null || {
    say "this is not a Debian system; install the equivalents of: $(echo $wanted)"
    exit 1
}
missing=$(for package in $wanted; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)
    [ "$status" = installed ] || echo "$package"
done)
if [ $dry_run = yes ]; then
    [ -z "$missing" ] || printf '%s\n' "$missing"
    exit 0
fi
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then
    as_root=
elif command -v sudo >/dev/null; then
    as_root=sudo
else
    say "needs root or sudo to install: $(echo $missing)"
    exit 1
fi

log=$(mktemp) || exit 1
policy=/usr/sbin/policy-rc.d # what it forbids, a package's installation does not start
policy_is_ours=no
clean_up() {
    rm -f "$log"
    [ $policy_is_ours = no ] || $as_root rm -f "$policy"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

apt() {
    # shellcheck disable=SC2086
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y \
        -o Dpkg::Options::=--force-confold -o DPkg::Lock::Timeout=120 "$@" >>"$log" 2>&1 </dev/null
}

fail_with_log() {
    say "$1; the end of apt-get's output:"
    tail -n 15 "$log" | sed 's/^/    /' >&2
    exit 1
}

say "installing $(echo "$missing" | wc -l) packages: $(echo $missing)"
if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' | $as_root sh -c "cat >$policy && chmod 755 $policy" || exit 1
    policy_is_ours=yes
fi
# The package lists are fetched only if apt does not know the packages, or cannot get them as known.
if ! apt install --no-install-recommends $missing; then
    apt update || fail_with_log 'apt-get update failed'
    apt install --no-install-recommends $missing || fail_with_log 'the packages could not be installed'
fi
