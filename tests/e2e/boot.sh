#!/bin/sh
# Boots systemd in a throwaway root. Runs in namespaces of its own, so all mounts end with it.
# Usage: boot.sh LOWER SCRATCH NAME=DIRECTORY…; each directory is read at /shared/NAME.
set -eu
lower=$1 scratch=$2
shift 2
root=$scratch/root

mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$scratch/upper,workdir=$scratch/work" "$root"
for shared in "$@"; do
    mkdir -p "$root/shared/${shared%%=*}"
    mount --bind -o ro "${shared#*=}" "$root/shared/${shared%%=*}"
done
cd "$root"

mount -t proc -o nosuid,nodev,noexec proc proc
# Settings of the kernel are the host's as well.
mount --bind proc/sys proc/sys && mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs sys

if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    mount -t cgroup2 cgroup2 sys/fs/cgroup
else
    mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup
    while IFS=: read -r _ controllers _; do
        case $controllers in
            "") continue ;;
            name=systemd) at=systemd options=none,name=systemd ;;
            *) at=$controllers options=$controllers ;;
        esac
        mkdir "sys/fs/cgroup/$at"
        mount -t cgroup -o "$options" cgroup "sys/fs/cgroup/$at"
    done < /proc/self/cgroup
fi

mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do
    touch dev/$device
    mount --bind /dev/$device dev/$device
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
mount -t tmpfs tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr
mount -t tmpfs -o mode=755 tmpfs run

mkdir -p host
pivot_root . host
umount -l /host
mount --make-rshared / # systemd hands mounts on, and leaves this to who boots a container
ip link set lo up
# What would reach the host's kernel is taken away.
exec setpriv --bounding-set -sys_module,-sys_time,-sys_rawio,-syslog,-mac_admin,-mac_override \
    env -i container=e2e PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    /sbin/init --log-target=journal --show-status=no
