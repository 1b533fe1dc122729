// Package qemu is the engine that runs a microVM in QEMU: `-M microvm` for x86_64 guests, `-M virt` for aarch64 ones, with
// the accelerators kvm, hvf (macOS) and tcg (software emulation), so that it works on every host.
//
// Launch makes the listening sockets of a microVM itself and hands them to QEMU as descriptors, so that connecting to them
// never has to wait for a file to appear, and the death of QEMU is the end of the stream on each of them:
//
//	link.sock     the virtio-serial port of the guest agent (package transport speaks on it)
//	console.sock  the guest's serial console, written to LogDir/console.log, of bounded size
//	qmp.sock      QEMU's control protocol
//	vmm.pipe      QEMU's stdout and stderr, written to LogDir/vmm.log, of bounded size
//
// A QEMU outlives the daemon that started it. Its sockets accept a new connection when the old one has ended, so the next
// daemon adopts it with nothing but the MachineRecord. While no daemon is there, the guest's console output is lost.
package qemu
