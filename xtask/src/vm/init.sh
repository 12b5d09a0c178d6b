#!/bin/busybox sh
# PID 1 of a guest. ttyS0 has the kernel's console and how far this came, ttyS1 the output of the
# command, ttyS2 its exit code. A guest that says none on ttyS2 did not finish.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root TERM=dumb LANG=C.UTF-8
bb=/bin/busybox
$bb mkdir -p /proc /sys /dev /tmp /run/netns /run/lock /root /out /var/log
$bb chmod 1777 /tmp
$bb mount -t proc proc /proc
$bb mount -t sysfs sys /sys
$bb mount -t devtmpfs dev /dev
say() { echo "vm: $* $($bb cut -d' ' -f1 /proc/uptime)" >/dev/ttyS0; }
say init
$bb mkdir -p /dev/shm /dev/pts
$bb mount -t tmpfs tmpfs /dev/shm
$bb mount -t devpts devpts /dev/pts
$bb mount -t bpf bpf /sys/fs/bpf
$bb mount -t debugfs debugfs /sys/kernel/debug
$bb mount -t tracefs tracefs /sys/kernel/tracing
$bb mount -t cgroup2 cgroup2 /sys/fs/cgroup
$bb ln -s /proc/self/fd /dev/fd
$bb ip link set lo up
$bb hostname vm
# What a lab configures by sysctl must be there before; the rest comes when it is asked for.
modprobe -a virtio_pci virtio_blk bridge br_netfilter nf_conntrack veth vxlan 2>/dev/ttyS0 ||
	say "cannot load modules"
# Lines end as they were written.
stty -F /dev/ttyS1 -opost
say ready
cd /root
$bb setsid bash /vm/command </dev/null >/dev/ttyS1 2>&1
code=$?
say "exit $code"
# The command may have left children that hold its output open; setting waits for what is sent.
stty -F /dev/ttyS1 -opost
[ -z "$($bb ls /out)" ] || tar cf /dev/vda -C /out . || code=251
$bb sync
echo $code >/dev/ttyS2
stty -F /dev/ttyS2 -opost
$bb poweroff -f
