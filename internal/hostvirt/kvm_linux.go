package hostvirt

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const kvmDevice = "/dev/kvm"

// Numbers of the KVM API that are the same everywhere: Documentation/virt/kvm/api.rst, include/uapi/linux/kvm.h.
const (
	kvmGetAPIVersion       = 0xae00
	kvmCreateVM            = 0xae01
	kvmGetVCPUMmapSize     = 0xae04
	kvmCreateVCPU          = 0xae41
	kvmSetUserMemoryRegion = 0x4020ae46
	kvmRun                 = 0xae80

	kvmAPIVersion    = 12
	exitReasonOffset = 8 // of exit_reason in struct kvm_run
)

// memoryRegion is struct kvm_userspace_memory_region.
type memoryRegion struct {
	slot, flags             uint32
	guestAddr, size, mapped uint64
}

// measureKVM opens KVM and measures it.
func measureKVM(ctx context.Context) (KVM, error) {
	fd, err := unix.Open(kvmDevice, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return cannotOpen(err), nil
	}
	defer unix.Close(fd)
	ns, err := measureIn(ctx, fd)
	if ctx.Err() != nil {
		return KVM{}, context.Cause(ctx)
	}
	if err != nil {
		return KVM{Reason: fmt.Sprintf("%s opens, but cannot be used: %v", kvmDevice, err)}, nil
	}
	return verdict(ns, hasVirtFlags()), nil
}

func cannotOpen(err error) KVM {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		v := KVM{Reason: "there is no " + kvmDevice, Hint: "load the kvm module, and switch virtualization on in the firmware"}
		if !hasVirtFlags() {
			v.Reason += ", and the CPU announces neither vmx nor svm"
			v.Hint = "use a host with hardware virtualization (in a cloud: bare metal, or nested virtualization switched on)"
		}
		return v
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return KVM{
			Reason: "this user may not open " + kvmDevice,
			Hint:   "sudo usermod -aG kvm \"$USER\", then log in again",
		}
	}
	return KVM{Reason: fmt.Sprintf("%s cannot be opened: %v", kvmDevice, err)}
}

func measureIn(ctx context.Context, kvm int) (ns float64, err error) {
	version, err := ioctl(kvm, kvmGetAPIVersion, 0)
	if err != nil {
		return 0, fmt.Errorf("ask for the API version: %w", err)
	}
	if version != kvmAPIVersion {
		return 0, fmt.Errorf("it has API version %d instead of %d", version, kvmAPIVersion)
	}
	g, err := newGuest(kvm)
	if err != nil {
		return 0, err
	}
	defer g.close()
	return measure(ctx, g, time.Now)
}

// kvmGuest is a VM with one vCPU and one page of memory.
type kvmGuest struct {
	vm, vcpu    int
	mem, shared []byte // guest memory; struct kvm_run
}

// newVM makes a VM with one page of memory at guest physical address base, holding code. The vCPU is made next, by
// addVCPU.
func newVM(kvm int, vmType uintptr, base uint64, code []byte) (*kvmGuest, error) {
	vm, err := ioctl(kvm, kvmCreateVM, vmType)
	if err != nil {
		return nil, fmt.Errorf("create a VM: %w", err)
	}
	g := &kvmGuest{vm: int(vm), vcpu: -1}
	if g.mem, err = unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS); err != nil {
		g.close()
		return nil, fmt.Errorf("map guest memory: %w", err)
	}
	copy(g.mem, code)
	region := memoryRegion{guestAddr: base, size: uint64(len(g.mem)), mapped: uint64(uintptr(unsafe.Pointer(&g.mem[0])))}
	if err := ioctlPtr(g.vm, kvmSetUserMemoryRegion, unsafe.Pointer(&region)); err != nil {
		g.close()
		return nil, fmt.Errorf("give memory to a VM: %w", err)
	}
	return g, nil
}

func (g *kvmGuest) addVCPU(kvm int) error {
	vcpu, err := ioctl(g.vm, kvmCreateVCPU, 0)
	if err != nil {
		return fmt.Errorf("create a vCPU: %w", err)
	}
	g.vcpu = int(vcpu)
	size, err := ioctl(kvm, kvmGetVCPUMmapSize, 0)
	if err != nil {
		return fmt.Errorf("ask for the size of a vCPU: %w", err)
	}
	if g.shared, err = unix.Mmap(g.vcpu, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return fmt.Errorf("map a vCPU: %w", err)
	}
	return nil
}

func (g *kvmGuest) close() {
	if g.shared != nil {
		_ = unix.Munmap(g.shared)
	}
	if g.vcpu >= 0 {
		unix.Close(g.vcpu)
	}
	unix.Close(g.vm)
	if g.mem != nil {
		_ = unix.Munmap(g.mem)
	}
}

// enter runs the vCPU until it exits and checks the reason.
func (g *kvmGuest) enter(want uint32) error {
	for {
		_, err := ioctl(g.vcpu, kvmRun, 0)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil {
			return err
		}
		break
	}
	if got := binary.NativeEndian.Uint32(g.shared[exitReasonOffset:]); got != want {
		return fmt.Errorf("the vCPU stopped for reason %d instead of %d", got, want)
	}
	return nil
}

func ioctlPtr(fd int, request uintptr, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg))
	if errno != 0 {
		return errno
	}
	return nil
}

func ioctl(fd int, request, arg uintptr) (uintptr, error) {
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, arg)
	if errno != 0 {
		return 0, errno
	}
	return r, nil
}
