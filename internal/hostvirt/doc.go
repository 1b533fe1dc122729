// Package hostvirt says what this host can do for a microVM: whether its hardware virtualization is there, may be used and
// is fast (KVM is measured, as one that merely opens may be a software emulation that takes minutes to boot a guest), how
// much memory and how many CPUs it has, and how fast its time-stamp counter runs.
package hostvirt
