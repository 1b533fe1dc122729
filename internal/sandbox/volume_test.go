package sandbox

import (
	"strings"
	"testing"
)

func TestParseVolume(t *testing.T) {
	for s, want := range map[string]VolumeMount{
		"a:/b":            {"a", "/b", false},
		"a:/b:ro":         {"a", "/b", true},
		"a.b-1:/b c/d:rw": {"a.b-1", "/b c/d", false},
	} {
		if got, err := ParseVolume(s); err != nil || got != want {
			t.Errorf("%q: %+v, %v", s, got, err)
		}
	}
	for _, s := range []string{
		"", "a", "a:", ":/b", "a:b", "a:/", "a:/b/", "a:/b/../c", "a:/./b", "a://b", "a:/b:xx", "a:/b:ro:ro", "a:/b\x00",
		"/etc:/b", "./a:/b", "../a:/b", "a/b:/b", "A:/b", "a..b:/b", "a:/proc", "a:/proc/1", "a:/sys/x", "a:/dev/shm", "a:/tmp", "a:/workspace",
		"a:/" + strings.Repeat("x", MaxMountPoint), "a:/" + strings.Repeat(" ", MaxMountPoint/3+1), strings.Repeat("a", MaxNameLen+1) + ":/b",
	} {
		if got, err := ParseVolume(s); KindOf(err) != Invalid {
			t.Errorf("%q: %+v, %v", s, got, err)
		}
	}
}

func TestVolumesOfASandbox(t *testing.T) {
	v := func(s string) VolumeMount { m, _ := ParseVolume(s); return m }
	for _, tc := range []struct {
		list []VolumeMount
		ok   bool
	}{
		{[]VolumeMount{v("a:/x"), v("b:/xy"), v("c:/y"), v("d:/z:ro")}, true},
		{[]VolumeMount{v("a:/x"), v("a:/y:ro")}, false},
		{[]VolumeMount{v("a:/x"), v("b:/x")}, false},
		{[]VolumeMount{v("a:/x/y"), v("b:/x")}, false},
		{[]VolumeMount{v("a:/x"), v("b:/x/y")}, false},
		{[]VolumeMount{v("a:/1"), v("b:/2"), v("c:/3"), v("d:/4"), v("e:/5")}, false},
	} {
		if err := validateVolumes(tc.list); (err == nil) != tc.ok {
			t.Errorf("%v: %v", tc.list, err)
		}
	}
}

// Nothing of a mount point can be another word, or another field, of the kernel's command line.
func TestDiskParameter(t *testing.T) {
	for want, d := range map[string]Disk{
		"agentkernel.disk=rootfs:erofs:ro":                            {Role: RootLower, FS: "erofs", ReadOnly: true},
		"agentkernel.disk=volume0:ext4:rw::/a%20b%3A%22%3D%25/%C3%A9": {Role: VolumeRole(0), FS: "ext4", MountPoint: `/a b:"=%/é`},
		"agentkernel.disk=volume1:ext4:ro::/data":                     {Role: VolumeRole(1), FS: "ext4", MountPoint: "/data", ReadOnly: true},
	} {
		if got := d.Parameter(""); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	if got, want := (Disk{Role: VolumeRole(3), FS: "ext4", MountPoint: "/d"}).Parameter("vdd"), "agentkernel.disk=volume3:ext4:rw:vdd:/d"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
