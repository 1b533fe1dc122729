package identity

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// clockTolerance is how far the guest's clock may be off before it is set. Setting it wakes those who wait for a time.
const clockTolerance = 10 * time.Millisecond

// SetClock sets the wall clock, unless it is right already.
func SetClock(now time.Time) error {
	if off := time.Until(now); off <= clockTolerance && off >= -clockTolerance {
		return nil
	}
	ts := unix.NsecToTimespec(now.UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		return fmt.Errorf("set the clock: %w", err)
	}
	return nil
}

// EntropySize is how much of the host's entropy a guest gets, in bytes.
const EntropySize = 64

// AddEntropy adds the host's entropy to that of the kernel, and has the generator that everybody reads from begin anew with
// it: random(4), RNDADDENTROPY and RNDRESEEDCRNG.
func AddEntropy(entropy []byte) error {
	if len(entropy) != EntropySize {
		return fmt.Errorf("the host gave %d bytes of entropy, not %d", len(entropy), EntropySize)
	}
	fd, err := unix.Open("/dev/random", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: "/dev/random", Err: err}
	}
	defer unix.Close(fd)
	var info [8 + EntropySize]byte // struct rand_pool_info: bits, bytes, and these
	binary.NativeEndian.PutUint32(info[:], EntropySize*8)
	binary.NativeEndian.PutUint32(info[4:], EntropySize)
	copy(info[8:], entropy)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&info)))
	runtime.KeepAlive(&info)
	if errno != 0 {
		return fmt.Errorf("add entropy to the kernel's: %w", errno)
	}
	if err := unix.IoctlSetInt(fd, unix.RNDRESEEDCRNG, 0); err != nil {
		return fmt.Errorf("reseed the kernel's random generator: %w", err)
	}
	return nil
}
