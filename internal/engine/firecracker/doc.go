// Package firecracker is the engine that runs a microVM in Firecracker, on Linux with hardware virtualization.
//
// Firecracker gets the whole configuration in a file (--config-file) and starts the guest by itself. So a boot takes one
// request on the API socket, whose answer says that the guest was started, instead of one for each part of the machine; and
// what Firecracker objects to it says on stderr and in its log, before it ends.
//
// It is confined as far as the host allows (package confine, kinds in jail.go). Every path that it gets is relative to the microVM's
// runtime directory, or to a root directory in which it sees the same files, so that the length of a socket's path does not
// matter and a snapshot can be restored in the directory of another sandbox:
//
//	config.json          the configuration; there is none when a saved state is restored
//	files/               the kernel and the initramfs, or a saved state, and the disks by their slots: bound there, or links for a
//	                     VMM that sees the whole file system
//	files/saving         where it saves its state: LogDir/saving, as the runtime directory may be in memory
//	sockets/api.sock     Firecracker's API (package fcapi)
//	sockets/v.sock       its vsock device (package hybridvsock)
//	sockets/v.sock_1025  where the guest agent knocks when it listens
//	vmm.pipe             Firecracker's log and stderr, written to LogDir/vmm.log
//
// These it does not see:
//
//	console.pipe         the guest's serial console, which is Firecracker's stdout; written to LogDir/console.log
//	jail/                where its root directory is mounted, for itself alone
//	spare                what is in the slots of spare disks
//
// A Firecracker outlives the daemon that started it, and the next one adopts it with nothing but the MachineRecord: a
// connection to the guest is a connection to v.sock, and needs no state. What the guest prints while no daemon is there stays in
// the pipe as long as there is room.
package firecracker
