package sandbox

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestSlots(t *testing.T) {
	lower := Disk{Role: RootLower, ReadOnly: true}
	upper := Disk{Role: Upper}
	workspace := Disk{Role: Workspace, ReadOnly: true}
	first, second := Disk{Role: VolumeRole(0)}, Disk{Role: VolumeRole(1), ReadOnly: true}
	template := &SavedState{Disks: []DiskSlot{
		{Role: RootLower, ReadOnly: true, SizeBytes: 7}, {SizeBytes: SpareBytes}, {ReadOnly: true, SizeBytes: SpareBytes}, {SizeBytes: SpareBytes},
	}}
	suspended := &SavedState{Disks: []DiskSlot{{Role: RootLower, ReadOnly: true}, {Role: Upper}, {}, {Role: VolumeRole(1), ReadOnly: true}}}
	for name, tc := range map[string]struct {
		spec MachineSpec
		want string // roles by slot, or what the error says
	}{
		"boot":                  {MachineSpec{Disks: []Disk{lower, upper}, Spares: []Spare{{ReadOnly: true}, {}}}, "rootfs/ro upper/rw -/ro -/rw"},
		"template, all spare":   {MachineSpec{Disks: []Disk{lower}, From: template}, "rootfs/ro -/rw -/ro -/rw"},
		"template, one free":    {MachineSpec{Disks: []Disk{lower, upper, workspace}, From: template}, "rootfs/ro upper/rw workspace/ro -/rw"},
		"template, other order": {MachineSpec{Disks: []Disk{first, workspace, lower, upper}, From: template}, "rootfs/ro volume0/rw workspace/ro upper/rw"},
		"template, too many":    {MachineSpec{Disks: []Disk{lower, workspace, second}, From: template}, "no free disk that could be volume1 (read-only: true)"},
		"as it was":             {MachineSpec{Disks: []Disk{lower, upper, second}, From: suspended}, "rootfs/ro upper/rw -/rw volume1/ro"},
		"one more":              {MachineSpec{Disks: []Disk{lower, upper, first, second}, From: suspended}, "rootfs/ro upper/rw volume0/rw volume1/ro"},
		"one less":              {MachineSpec{Disks: []Disk{lower, upper}, From: suspended}, "a disk volume1, and there is none for it"},
		"now writable":          {MachineSpec{Disks: []Disk{lower, upper, {Role: VolumeRole(1)}}, From: suspended}, "a disk volume1, and there is none for it"},
	} {
		slots, err := tc.spec.Slots()
		var got []string
		for _, s := range slots {
			text := "-"
			if s.Disk != nil {
				text = string(s.Disk.Role)
			}
			got = append(got, text+map[bool]string{true: "/ro", false: "/rw"}[s.ReadOnly])
		}
		if text := strings.Join(got, " "); err == nil && text != tc.want {
			t.Errorf("%s: %s, want %s", name, text, tc.want)
		}
		if err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %s", name, err, tc.want)
		}
	}
}

func TestDiskSlots(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := DiskSlots([]Slot{{Disk: &Disk{Role: Upper, Path: path}}, {ReadOnly: true}})
	if want := []DiskSlot{{Role: Upper, SizeBytes: 4096}, {ReadOnly: true, SizeBytes: SpareBytes}}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v: %v", got, want, err)
	}
	if _, err := DiskSlots([]Slot{{Disk: &Disk{Path: path + "x"}}}); err == nil {
		t.Error("a disk that is not there has a size")
	}
}
