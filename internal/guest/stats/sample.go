// Package stats measures what the guest uses, and sees what its kernel kills.
//
// Sources: proc(5), Documentation/filesystems/proc.rst and Documentation/accounting/psi.rst of Linux.
package stats

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
)

// tick is the unit of times in /proc/stat: USER_HZ is 100 on all architectures that guests have.
const tick = 10 * time.Millisecond

// Source is where the numbers come from.
type Source struct {
	Proc  string     // /proc
	Upper func() int // descriptor of a directory on the upper disk
}

// Sample measures.
func (s Source) Sample() (*guestv1.SampleResponse, error) {
	r := &guestv1.SampleResponse{}
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return nil, fmt.Errorf("read the clock: %w", err)
	}
	r.UptimeNs = ts.Nano()
	var fs unix.Statfs_t
	if err := unix.Fstatfs(s.Upper(), &fs); err != nil {
		return nil, fmt.Errorf("look at the upper disk: %w", err)
	}
	size := uint64(fs.Bsize)
	r.DiskTotal, r.DiskUsed = fs.Blocks*size, (fs.Blocks-min(fs.Bfree, fs.Blocks))*size
	r.InodesTotal, r.InodesUsed = fs.Files, fs.Files-min(fs.Ffree, fs.Files)
	for name, parse := range map[string]func(*guestv1.SampleResponse, []byte){
		"stat": parseStat, "meminfo": parseMeminfo, "loadavg": parseLoad, "vmstat": parseVMStat,
	} {
		data, err := os.ReadFile(filepath.Join(s.Proc, name))
		if err != nil {
			return nil, fmt.Errorf("read what is used: %w", err)
		}
		parse(r, data)
	}
	for _, resource := range []string{"cpu", "memory", "io"} {
		data, err := os.ReadFile(filepath.Join(s.Proc, "pressure", resource))
		if err != nil {
			continue // the kernel has no PSI
		}
		r.Pressure = append(r.Pressure, parsePressure(resource, data))
	}
	var err error
	r.Processes, err = s.processes()
	return r, err
}

// processes counts the processes but for the kernel's threads, which kthreadd (2) has made, and the guest agent.
func (s Source) processes() (n uint32, err error) {
	dir, err := os.Open(s.Proc)
	if err != nil {
		return 0, fmt.Errorf("count the processes: %w", err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return 0, fmt.Errorf("count the processes: %w", err)
	}
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err != nil || pid <= 2 {
			continue
		}
		stat, err := os.ReadFile(filepath.Join(s.Proc, name, "stat"))
		if err != nil {
			continue // it has ended
		}
		fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
		if len(fields) > 1 && string(fields[1]) != "2" {
			n++
		}
	}
	return n, nil
}

func number(b []byte) uint64 {
	n, err := strconv.ParseUint(string(b), 10, 63)
	if err != nil {
		return 0
	}
	return n
}

// parseStat adds up all times but idle and iowait; those of guests of the guest are in user and nice.
func parseStat(r *guestv1.SampleResponse, data []byte) {
	for line := range bytes.Lines(data) {
		f := bytes.Fields(line)
		if len(f) == 0 || !bytes.HasPrefix(f[0], []byte("cpu")) {
			continue
		}
		if len(f[0]) > 3 {
			r.Cpus++
			continue
		}
		busy := uint64(0)
		for i, v := range f[1:min(len(f), 9)] {
			if i != 3 && i != 4 {
				busy += min(number(v), math.MaxInt64/uint64(tick)/8)
			}
		}
		r.CpuBusyNs = int64(busy) * int64(tick)
	}
}

func parseMeminfo(r *guestv1.SampleResponse, data []byte) {
	for line := range bytes.Lines(data) {
		name, rest, _ := bytes.Cut(line, []byte(":"))
		f := bytes.Fields(rest)
		if len(f) == 0 {
			continue
		}
		n := number(f[0]) * 1024
		switch string(name) {
		case "MemTotal":
			r.MemoryTotal = n
		case "MemAvailable":
			r.MemoryAvailable = n
		case "Buffers", "Cached", "SReclaimable":
			r.MemoryCache += n
		}
	}
}

func parseLoad(r *guestv1.SampleResponse, data []byte) {
	for _, f := range bytes.Fields(data)[:min(3, len(bytes.Fields(data)))] {
		load, err := strconv.ParseFloat(string(f), 64)
		if err != nil || load < 0 || load > 1e6 {
			load = 0
		}
		r.LoadMilli = append(r.LoadMilli, uint32(load*1000))
	}
}

func parseVMStat(r *guestv1.SampleResponse, data []byte) {
	for line := range bytes.Lines(data) {
		if f := bytes.Fields(line); len(f) == 2 && string(f[0]) == "oom_kill" {
			r.OomKills = number(f[1])
		}
	}
}

func parsePressure(resource string, data []byte) *guestv1.Pressure {
	p := &guestv1.Pressure{Resource: resource}
	for line := range bytes.Lines(data) {
		f := bytes.Fields(line)
		if len(f) < 2 {
			continue
		}
		v, err := strconv.ParseFloat(string(bytes.TrimPrefix(f[1], []byte("avg10="))), 64)
		if err != nil || v < 0 || v > 100 {
			continue
		}
		switch string(f[0]) {
		case "some":
			p.SomeAvg10Centi = uint32(math.Round(v * 100))
		case "full":
			p.FullAvg10Centi = uint32(math.Round(v * 100))
		}
	}
	return p
}
