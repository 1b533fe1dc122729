// Package boot brings a microVM from the initramfs to the sandbox's own root file system, and gives it its identity.
//
// Each step is one or a few system calls; the whole of it counts in the time that every sandbox takes to start.
package boot

import (
	"fmt"
	"slices"
	"strings"
)

// Roles of disks; a disk's role is its virtio-blk serial.
const (
	roleRoot      = "rootfs"
	roleUpper     = "upper"
	roleWorkspace = "workspace"
)

// Params are the kernel parameters that are for the guest agent.
type Params struct {
	Disks []Disk
	Link  string // 32 hexadecimal digits, or empty when there is no serial link
}

// Disk is a parameter agentkernel.disk=<role>:<fs>:<ro|rw>.
type Disk struct {
	Role     string
	FS       string
	ReadOnly bool
}

// ParseCmdline reads the agent's parameters out of /proc/cmdline. Others are ignored.
func ParseCmdline(line string) (Params, error) {
	var p Params
	for _, word := range strings.Fields(line) {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "agentkernel.link":
			p.Link = value
		case "agentkernel.disk":
			f := strings.Split(value, ":")
			if len(f) != 3 || f[0] == "" || f[2] != "ro" && f[2] != "rw" || !slices.Contains([]string{"erofs", "squashfs", "ext4"}, f[1]) {
				return Params{}, fmt.Errorf("the kernel parameter %s is not agentkernel.disk=<role>:<erofs|squashfs|ext4>:<ro|rw>", word)
			}
			if _, ok := p.disk(f[0]); ok {
				return Params{}, fmt.Errorf("the kernel parameters name two disks %s", f[0])
			}
			p.Disks = append(p.Disks, Disk{f[0], f[1], f[2] == "ro"})
		}
	}
	return p, nil
}

func (p Params) disk(role string) (Disk, bool) {
	i := slices.IndexFunc(p.Disks, func(d Disk) bool { return d.Role == role })
	if i < 0 {
		return Disk{}, false
	}
	return p.Disks[i], true
}
