package pressure

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The stall information of Linux: Documentation/accounting/psi.rst. The trigger fires when, within two seconds, tasks have waited
// for memory for 150 ms. Who is not root may have windows of whole multiples of two seconds alone.
const (
	psiMemory = "/proc/pressure/memory"
	trigger   = "some 150000 2000000"
)

// Watch calls short whenever the host gets short of memory, once in two seconds at most, until ctx ends. It returns at once, with
// ErrUnknown in its error where the kernel has no triggers for us.
func Watch(ctx context.Context, short func()) error {
	fd, err := unix.Open(psiMemory, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%w: open %s: %w", ErrUnknown, psiMemory, err)
	}
	if _, err := unix.Write(fd, append([]byte(trigger), 0)); err != nil {
		unix.Close(fd)
		return fmt.Errorf("%w: set a trigger on %s: %w", ErrUnknown, psiMemory, err)
	}
	end, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		unix.Close(fd)
		return fmt.Errorf("watch the memory: %w", err)
	}
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_, _ = unix.Write(end, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		<-done
		unix.Close(end)
	})
	go func() {
		defer close(done)
		defer unix.Close(fd)
		for {
			fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}, {Fd: int32(end), Events: unix.POLLIN}}
			_, err := unix.Poll(fds, -1)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil || fds[1].Revents != 0 || fds[0].Revents&unix.POLLERR != 0 {
				break
			}
			if fds[0].Revents&unix.POLLPRI != 0 {
				short()
			}
		}
		if stop() { // the kernel has taken the trigger away
			unix.Close(end)
		}
	}()
	return nil
}

// AvailableMiB is the memory that can be had without swapping: MemAvailable of proc(5).
func AvailableMiB() (int, error) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			kib, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")))
			if err != nil {
				return 0, fmt.Errorf("%w: read /proc/meminfo: %w", ErrUnknown, err)
			}
			return kib >> 10, nil
		}
	}
	return 0, fmt.Errorf("%w: /proc/meminfo has no MemAvailable", ErrUnknown)
}
