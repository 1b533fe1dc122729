package image

import (
	"net/url"
	"regexp"
	"strings"
	"sync"

	"github.com/agentkernel/agentkernel/internal/image/oci"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// nameRE is a name that a user gives to an image.
var nameRE = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$`) })

// maxName is how long a name may be: as part of a file's name, escaped, it must stay below 255 bytes.
const maxName = 200

// IsPath reports whether a reference to an image is the path of a file and not a name: it begins with '/' or '.'.
func IsPath(ref string) bool { return strings.HasPrefix(ref, "/") || strings.HasPrefix(ref, ".") }

func isShort(name string) bool {
	return len(name) <= 64 && nameRE().MatchString(name) && !strings.Contains(name, "..")
}

// validateName returns an *sandbox.Error of kind Invalid unless name can be the name of an image: a user's own, or a
// reference as docker writes it, in its short form. Names become names of files, so this is checked before anything else is
// done with one.
func validateName(name string) error {
	if isShort(name) {
		return nil
	}
	n, err := oci.ParseName(name)
	if err == nil && n.Short() == name && len(fileOfName(name)) <= maxName {
		return nil
	}
	return sandbox.Errorf(sandbox.Invalid, "use 1 to 64 lower-case letters, digits, '-', '_' and '.', or a reference such as python:3.12-alpine; a path begins with '/' or '.'",
		"%.80q is not the name of an image", name)
}

// namesOf returns the names that a reference may stand for, in the order in which they are tried.
func namesOf(ref string) ([]string, error) {
	var names []string
	if isShort(ref) {
		names = append(names, ref)
	}
	if n, err := oci.ParseName(ref); err == nil && n.Short() != ref && validateName(n.Short()) == nil {
		return append(names, n.Short()), nil
	}
	if len(names) == 0 {
		return []string{ref}, validateName(ref)
	}
	return names, nil
}

// fileOfName is the name of a file that stands for an image's name: with '/', ':' and '@' escaped.
func fileOfName(name string) string { return url.QueryEscape(name) }

func nameOfFile(file string) string {
	name, err := url.QueryUnescape(file)
	if err != nil {
		return ""
	}
	return name
}
