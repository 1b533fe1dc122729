package procusage

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// tick is the unit of times in /proc/pid/stat: USER_HZ is 100 on all architectures that this runs on.
const tick = 10 * time.Millisecond

// Of measures the process pid that was started at start (field 22 of /proc/pid/stat; 0: any). The PSS is measured when
// shared is set: it takes the kernel a walk over all pages. Source: proc(5).
func Of(pid int, start uint64, shared bool) (Usage, error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return Usage{}, fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	f := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:]) // from field 3 on
	if len(f) < 22 {
		return Usage{}, fmt.Errorf("%w: its stat line has too few fields", ErrUnknown)
	}
	if start != 0 && number(f[19]) != start {
		return Usage{}, fmt.Errorf("%w: it has ended", ErrUnknown)
	}
	u := Usage{
		CPU: time.Duration(number(f[11])+number(f[12])) * tick,
		RSS: number(f[21]) * uint64(os.Getpagesize()),
	}
	if shared {
		// Not allowed for a process of another user; the RSS is then all that is known.
		if rollup, err := os.ReadFile(filepath.Join(dir, "smaps_rollup")); err == nil {
			u.PSS = parsePSS(rollup)
		}
	}
	return u, nil
}

func parsePSS(rollup []byte) uint64 {
	for line := range bytes.Lines(rollup) {
		if rest, ok := bytes.CutPrefix(line, []byte("Pss:")); ok {
			if f := bytes.Fields(rest); len(f) > 0 {
				return number(f[0]) * 1024
			}
		}
	}
	return 0
}

func number(b []byte) uint64 {
	n, err := strconv.ParseUint(string(b), 10, 63)
	if err != nil {
		return 0
	}
	return n
}
