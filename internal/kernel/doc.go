// Package kernel builds the guest's Linux kernel and keeps what it has built.
//
// A kernel is tinyconfig plus a few fragments (images/kernel/*.config) plus
// the patches of its series. [Build] takes a source tarball, either a release
// downloaded from kernel.org and checked against its developer's signature,
// or a file such as the distribution's linux-source package, and leaves a
// directory in a [Store]:
//
//	<store>/<key>/vmlinux-6.1.70-agentkernel   what a microVM boots
//	<store>/<key>/bzImage-6.1.70-agentkernel   x86_64 only
//	<store>/<key>/config                       the complete .config
//	<store>/<key>/kernel.json                  the manifest, a [Kernel]
//
// The key is a digest of everything that decides the result: source, version,
// architecture, fragments, patches and compiler. So a kernel is built once,
// and a changed fragment is a new kernel beside the old one.
//
// The fragments assert themselves. Kconfig silently drops a symbol whose
// dependencies are not met; after configuring, every line of every fragment
// is compared with what Kconfig made of it, and a difference fails the build.
package kernel
