package sandbox

import (
	"fmt"
	"path"
	"strings"
	"time"
)

// Limits and defaults of volumes.
const (
	// MaxVolumes is how many a sandbox can have. QEMU's microvm has 8 virtio devices, of which the link, the image, the upper
	// disk and the project take one each.
	MaxVolumes = 4
	// MaxMountPoint is the length of a mount point as EncodePath writes it, in bytes: four of them have room in a kernel's
	// command line, which x86 and arm64 cut after 2048 bytes (COMMAND_LINE_SIZE).
	MaxMountPoint    = 200
	DefaultVolumeMiB = 10 * 1024
)

// VolumeVersion is the version of Volume that this build writes, and the newest that it reads.
const VolumeVersion = 1

// Volume is what is kept on disk about a volume: an ext4 file system that sandboxes name and that outlives them.
type Volume struct {
	Version   int       `json:"version"`
	ID        string    `json:"id"` // 16 hex digits; its directory
	Name      string    `json:"name"`
	SizeMiB   int       `json:"size_mib"` // virtual size; it is sparse
	CreatedAt time.Time `json:"created_at"`
}

// Validate checks a record that was read from disk.
func (v Volume) Validate() error {
	switch {
	case v.Version < 1:
		return fmt.Errorf("it has no version")
	case !ValidID(v.ID):
		return fmt.Errorf("%q is not an id", v.ID)
	}
	return ValidateVolume(v.Name, v.SizeMiB)
}

// ValidateVolume checks the name and the size of a volume that is to be made. The error is an *Error of kind Invalid.
func ValidateVolume(name string, sizeMiB int) error {
	if err := ValidateVolumeName(name); err != nil {
		return err
	}
	if sizeMiB < 64 || sizeMiB > 16*1024*1024 {
		return Errorf(Invalid, "ask for 64 MiB to 16 TiB", "a volume of %d MiB cannot be had", sizeMiB)
	}
	return nil
}

// ValidateVolumeName returns an *Error of kind Invalid unless name could be a sandbox's name as well.
func ValidateVolumeName(name string) error {
	if len(name) > MaxNameLen || !nameRE().MatchString(name) || strings.Contains(name, "..") {
		return Errorf(Invalid, fmt.Sprintf("use at most %d lower-case letters, digits, '-', '_' and '.'; begin and end with a letter or digit", MaxNameLen), "%.70q is not a volume's name", name)
	}
	return nil
}

// VolumeMount is a volume in a sandbox.
type VolumeMount struct {
	Volume   string `json:"volume"` // its name
	Path     string `json:"path"`   // mount point: absolute and clean
	ReadOnly bool   `json:"read_only,omitempty"`
}

// String is what ParseVolume reads.
func (v VolumeMount) String() string {
	if v.ReadOnly {
		return v.Volume + ":" + v.Path + ":ro"
	}
	return v.Volume + ":" + v.Path
}

// Validate checks v. The error is an *Error of kind Invalid.
func (v VolumeMount) Validate() error {
	if err := ValidateVolumeName(v.Volume); err != nil {
		return err
	}
	switch {
	case !path.IsAbs(v.Path) || path.Clean(v.Path) != v.Path || v.Path == "/" || strings.ContainsRune(v.Path, 0):
		return Errorf(Invalid, "give one such as /data, without . and .. and a slash at its end", "volume %q cannot be mounted on %.250q: that is not the absolute path of a directory below /", v.Volume, v.Path)
	case len(EncodePath(v.Path)) > MaxMountPoint:
		return Errorf(Invalid, fmt.Sprintf("use at most %d bytes, where those that are no ASCII letter, digit or one of - _ . / count thrice", MaxMountPoint), "the mount point of volume %q is too long", v.Volume)
	}
	for _, dir := range []string{"/proc", "/sys", "/dev"} {
		if v.Path == dir || strings.HasPrefix(v.Path, dir+"/") {
			return Errorf(Invalid, "choose another directory, such as /data", "volume %q cannot be mounted on %s: %s is the kernel's", v.Volume, v.Path, dir)
		}
	}
	for _, dir := range []string{"/run", "/tmp", "/workspace"} { // mount points themselves
		if v.Path == dir {
			return Errorf(Invalid, "choose a directory in it, or another such as /data", "volume %q cannot be mounted on %s, which has a file system of its own", v.Volume, v.Path)
		}
	}
	return nil
}

// ParseVolume reads NAME:PATH[:ro|:rw]. A path with a colon cannot be written so.
func ParseVolume(s string) (VolumeMount, error) {
	f := strings.Split(s, ":")
	if len(f) < 2 || len(f) > 3 || len(f) == 3 && f[2] != "ro" && f[2] != "rw" {
		return VolumeMount{}, Errorf(Invalid, "write it as NAME:/path or NAME:/path:ro", "%.250q is not NAME:PATH[:ro]", s)
	}
	if strings.HasPrefix(f[0], "/") || strings.HasPrefix(f[0], ".") {
		return VolumeMount{}, Errorf(Invalid, "agentkernel volume create NAME makes a volume; --project DIR and agentkernel cp copy files of this host", "%.250q is a path of this host, and a sandbox sees none", f[0])
	}
	v := VolumeMount{Volume: f[0], Path: f[1], ReadOnly: len(f) == 3 && f[2] == "ro"}
	return v, v.Validate()
}

// validateVolumes checks what volumes a sandbox has.
func validateVolumes(list []VolumeMount) error {
	if len(list) > MaxVolumes {
		return Errorf(Invalid, fmt.Sprintf("name at most %d", MaxVolumes), "%d volumes are too many for a sandbox", len(list))
	}
	for i, v := range list {
		if err := v.Validate(); err != nil {
			return err
		}
		for _, other := range list[:i] {
			switch {
			case other.Volume == v.Volume:
				return Errorf(Invalid, "name each volume once", "volume %q is named twice", v.Volume)
			case other.Path == v.Path || strings.HasPrefix(v.Path, other.Path+"/") || strings.HasPrefix(other.Path, v.Path+"/"):
				return Errorf(Invalid, "mount each volume on a directory of its own", "volumes %q and %q cannot be mounted one in the other (%s, %s)", other.Volume, v.Volume, other.Path, v.Path)
			}
		}
	}
	return nil
}

// VolumeRole is the role of the disk with a sandbox's volume number n.
func VolumeRole(n int) DiskRole { return DiskRole(fmt.Sprintf("volume%d", n)) }

// EncodePath writes a path as it stands in a kernel's command line: whatever could mean something there, or to one who reads
// it, is %XX.
func EncodePath(p string) string {
	var b strings.Builder
	for i := range len(p) {
		c := p[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-_./", c) >= 0 {
			b.WriteByte(c)
			continue
		}
		fmt.Fprintf(&b, "%%%02X", c)
	}
	return b.String()
}
