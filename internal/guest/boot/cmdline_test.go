package boot

import (
	"reflect"
	"testing"
)

func TestParseCmdline(t *testing.T) {
	got, err := ParseCmdline("quiet panic=-1 agentkernel.disk=rootfs:erofs:ro agentkernel.link=ab agentkernel.disk=upper:ext4:rw:vdb agentkernel.disk=volume0:ext4:ro:vdc:/my%20data agentkernel.disk=volume1:ext4:rw::/a.b/c x=agentkernel.link=no\n")
	want := Params{Disks: []Disk{{"rootfs", "erofs", true, "", "", 0, false}, {"upper", "ext4", false, "vdb", "", 0, false}, {"volume0", "ext4", true, "vdc", "/my data", 0, false}, {"volume1", "ext4", false, "", "/a.b/c", 0, false}}, Link: "ab"}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	for _, line := range []string{
		"agentkernel.disk", "agentkernel.disk=", "agentkernel.disk=a:ext4", "agentkernel.disk=a:ext4:xx", "agentkernel.disk=a:proc:ro",
		"agentkernel.disk=:ext4:ro", "agentkernel.disk=a:ext4:ro:", "agentkernel.disk=a:ext4:ro:vda:x",
		"agentkernel.disk=a:ext4:ro::", "agentkernel.disk=a:ext4:ro::a", "agentkernel.disk=a:ext4:ro::/", "agentkernel.disk=a:ext4:ro::/a/../b", "agentkernel.disk=a:ext4:ro::/a/%2e%2e/b",
		"agentkernel.disk=a:ext4:ro::/a%00b", "agentkernel.disk=a:ext4:ro::/a%2", "agentkernel.disk=a:ext4:ro::/a%+1", "agentkernel.disk=a:ext4:ro:vda:/a:b",
		"agentkernel.disk=a:ext4:ro:../proc/kcore", "agentkernel.disk=a:ext4:ro:vda1", "agentkernel.disk=a:ext4:ro:vd", "agentkernel.disk=a:ext4:ro:vdabc", "agentkernel.disk=a:ext4:ro agentkernel.disk=a:ext4:ro",
	} {
		if got, err := ParseCmdline(line); err == nil {
			t.Errorf("%q: %+v, want an error", line, got)
		}
	}
}
