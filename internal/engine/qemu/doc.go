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
//
// A saved state is two files. Of the same bytes in them, one set of pages in the host's memory serves all that are restored:
//
//	memory   the guest's memory, mapped copy-on-write; it has holes where the guest's pages are zero
//	state    the devices, in QEMU's migration format, read through a pipe
//
// Save writes both as one stream, since a microVM that boots has its memory from no file; Finish takes them apart, by a QEMU of
// its own (docs/adr/0013-saved-states-and-templates.md).
package qemu
