#!/bin/busybox sh
# The first program of the outer guest: loads the modules, and goes on in the disk.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in /modules/*.ko; do
  insmod "$module" || echo "nested: $module cannot be loaded"
done
mount -t ext4 /dev/vda /root && exec switch_root /root /init
echo "nested: the disk cannot be mounted"
poweroff -f
