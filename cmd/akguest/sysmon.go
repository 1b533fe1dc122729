package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"
)

// monitorSlack is how late the monitor thread may wake up, in nanoseconds.
const monitorSlack = 10_000_000

// calmMonitor lets the thread by which Go's runtime watches itself sleep longer than it asks for. As soon as anything runs
// it looks around every 20 µs, for a while, and each time costs a timer's interrupt and two switches of the only processor:
// more than the rest of what this program does for a command. What it is there for (a goroutine that does not yield, garbage
// collection every two minutes, returning memory) can wait some milliseconds more. The thread starts no others and no
// processes, so nobody inherits its slack: prctl(2), PR_SET_TIMERSLACK, and timerslack_ns in proc(5).
//
// It is the first thread that the runtime makes: runtime.main.
func calmMonitor() error {
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("list this program's threads: %w", err)
	}
	var tids []int
	for _, e := range entries {
		if tid, err := strconv.Atoi(e.Name()); err == nil && tid != os.Getpid() {
			tids = append(tids, tid)
		}
	}
	if len(tids) == 0 {
		return nil
	}
	path := fmt.Sprintf("/proc/%d/timerslack_ns", slices.Min(tids))
	if err := os.WriteFile(path, strconv.AppendInt(nil, monitorSlack, 10), 0); err != nil {
		return fmt.Errorf("calm the runtime's monitor: %w", err)
	}
	return nil
}
