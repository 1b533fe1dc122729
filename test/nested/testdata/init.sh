#!/bin/busybox sh
# Runs the suites in the outer guest. The lines that begin with "nested:" are read by the test that started it.
/bin/busybox --install -s /usr/bin
export PATH=/suite/bin:/usr/sbin:/usr/bin HOME=/root TERM=dumb AGENTKERNEL_HOME=/home/agentkernel
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
chown -R 0:0 /suite /home /usr /etc /root # the disk was made by a user who may not be root
# On systems with udev the group kvm may use it.
chown 0:100 /dev/kvm
chmod 660 /dev/kvm
chmod 1777 /tmp
[ -e /usr/bin/jailer ] && export AGENTKERNEL_TEST_CONFINEMENT=jailer || export AGENTKERNEL_TEST_CONFINEMENT=namespaces
agentkernel doctor
for suite in vm script; do
  cd /suite/test/$suite
  # The scripts name no engine, and run on what is chosen.
  [ $suite = vm ] && engine="-engine firecracker -restores 8" || engine=
  ./$suite.test -test.v -test.timeout "$(cat /timeout)" -test.run "$(cat run)" $engine
  echo "nested: suite $suite ended with $?"
done
# An ordinary user has data of its own.
mkdir -p /home/user/data
cp -r /home/agentkernel/data/kernels /home/agentkernel/data/images /home/user/data
chown -R 1000:1000 /home/user
for suite in vm; do
  cd /suite/test/$suite
  su user -c "AGENTKERNEL_TEST_CONFINEMENT=namespaces AGENTKERNEL_HOME=/home/user PATH=$PATH agentkernel doctor"
  su user -c "AGENTKERNEL_TEST_CONFINEMENT=namespaces AGENTKERNEL_HOME=/home/user PATH=$PATH \
    ./$suite.test -test.v -test.timeout $(cat /timeout) -test.run '$(cat user)' -engine firecracker -restores 8"
  echo "nested: suite user_$suite ended with $?"
done
cd /root
agentkernel bench boot -n 5
agentkernel daemon stop
echo "nested: the end"
sync
poweroff -f
