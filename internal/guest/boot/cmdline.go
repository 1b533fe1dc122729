// Package boot brings a microVM from the initramfs to the sandbox's own root file system, and gives it its identity.
//
// Each step is one or a few system calls; the whole of it counts in the time that every sandbox takes to start.
package boot

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Roles of disks. A disk without a device in its parameter has its role as its virtio-blk serial.
const (
	roleRoot      = "rootfs"
	roleUpper     = "upper"
	roleWorkspace = "workspace"
)

// Params are the kernel parameters that are for the guest agent.
type Params struct {
	Disks []Disk
	Link  string // 32 hexadecimal digits, or empty when there is no serial link
	// Template has the agent mount the image alone, and wait for the host to name the other disks.
	Template bool
}

// Disk is a parameter agentkernel.disk=<role>:<fs>:<ro|rw>[:<device>[:<mount point>]].
type Disk struct {
	Role       string
	FS         string
	ReadOnly   bool
	Device     string // its name in /dev, for a VMM that gives disks no serial; empty to find it by its serial
	MountPoint string // of a volume: absolute and clean, not /
	Size       uint64 // in bytes; 0 when it is what the kernel has seen at its start
	Rebind     bool   // another size shows when its driver is bound again; otherwise the kernel is told
}

// ParseCmdline reads the agent's parameters out of /proc/cmdline. Others are ignored.
func ParseCmdline(line string) (Params, error) {
	var p Params
	for _, word := range strings.Fields(line) {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "agentkernel.link":
			p.Link = value
		case "agentkernel.template":
			p.Template = true
		case "agentkernel.disk":
			if err := p.addDisk(value); err != nil {
				return Params{}, fmt.Errorf("read the kernel parameter %s: %w", word, err)
			}
		}
	}
	return p, nil
}

func (p *Params) addDisk(value string) error {
	d, err := readDisk(value)
	if err != nil {
		return err
	}
	if _, ok := p.disk(d.Role); ok {
		return fmt.Errorf("there are two disks %s", d.Role)
	}
	p.Disks = append(p.Disks, d)
	return nil
}

func readDisk(value string) (Disk, error) {
	d, ok := parseDisk(value)
	if !ok {
		return d, errors.New("it is not agentkernel.disk=<role>:<erofs|squashfs|ext4>:<ro|rw>[:<device>[:<mount point>]]")
	}
	return d, nil
}

// AddDisk adds a disk that a template is given, unless it has one of that role. value is that of the parameter agentkernel.disk,
// and size is in bytes, or 0.
func (p *Params) AddDisk(value string, size uint64, rebind bool) error {
	d, err := readDisk(value)
	if err != nil {
		return fmt.Errorf("the host gave the disk %q: %w", value, err)
	}
	if _, ok := p.disk(d.Role); !ok {
		d.Size, d.Rebind = size, rebind
		p.Disks = append(p.Disks, d)
	}
	return nil
}

func parseDisk(value string) (Disk, bool) {
	f := strings.Split(value, ":")
	if len(f) < 3 || len(f) > 5 || f[0] == "" || f[2] != "ro" && f[2] != "rw" || !slices.Contains([]string{"erofs", "squashfs", "ext4"}, f[1]) {
		return Disk{}, false
	}
	d := Disk{Role: f[0], FS: f[1], ReadOnly: f[2] == "ro"}
	if len(f) == 5 {
		var ok bool
		if d.MountPoint, ok = decodePath(f[4]); !ok || d.MountPoint == "/" || !path.IsAbs(d.MountPoint) || path.Clean(d.MountPoint) != d.MountPoint {
			return Disk{}, false
		}
	}
	if len(f) == 4 || len(f) == 5 && f[3] != "" {
		d.Device = f[3]
		return d, isDisk(d.Device)
	}
	return d, true
}

// decodePath reads a path in which a byte may be written as %XX.
func decodePath(s string) (string, bool) {
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '%' {
			if len(s)-i < 3 {
				return "", false
			}
			n, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
			if err != nil {
				return "", false
			}
			c = byte(n)
			i += 2
		}
		if c == 0 {
			return "", false
		}
		b = append(b, c)
	}
	return string(b), true
}

// isDisk reports whether name is what the kernel calls a virtio-blk disk: vd and one or two letters. Package regexp would
// cost a quarter of a megabyte, which the kernel unpacks at each boot.
func isDisk(name string) bool {
	letters, ok := strings.CutPrefix(name, "vd")
	return ok && (len(letters) == 1 || len(letters) == 2) && strings.Trim(letters, "abcdefghijklmnopqrstuvwxyz") == ""
}

func (p Params) disk(role string) (Disk, bool) {
	i := slices.IndexFunc(p.Disks, func(d Disk) bool { return d.Role == role })
	if i < 0 {
		return Disk{}, false
	}
	return p.Disks[i], true
}
