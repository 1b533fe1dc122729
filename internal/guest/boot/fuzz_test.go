package boot

import (
	"path"
	"testing"
)

// FuzzParseCmdline reads kernel parameters: no disk is taken from elsewhere than /dev, or mounted at what is no clean path.
func FuzzParseCmdline(f *testing.F) {
	f.Add("agentkernel.disk=rootfs:erofs:ro agentkernel.link=ab agentkernel.disk=upper:ext4:rw:vdb")
	f.Add("agentkernel.disk=volume0:ext4:ro:vdc:/my%20data")
	f.Fuzz(func(t *testing.T, line string) {
		p, err := ParseCmdline(line)
		if err != nil {
			return
		}
		for _, d := range p.Disks {
			if d.Device != "" && path.Base(d.Device) != d.Device || d.MountPoint != "" && (!path.IsAbs(d.MountPoint) || path.Clean(d.MountPoint) != d.MountPoint || d.MountPoint == "/") {
				t.Errorf("%q: %+v", line, d)
			}
		}
	})
}
