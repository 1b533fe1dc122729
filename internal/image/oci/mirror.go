package oci

import (
	"fmt"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// MirrorsVariable is the environment variable with mirrors of registries: registry=mirror pairs with commas between them. A
// mirror is host[:port][/path]; with http:// before it, it is spoken to without TLS.
const MirrorsVariable = "AGENTKERNEL_REGISTRY_MIRRORS"

// Mirrors say where else the images of a registry are, by its name (docker.io).
type Mirrors map[string][]Mirror

// Mirror is another place of a registry's images: its repositories below a prefix.
type Mirror struct {
	registry name.Registry
	prefix   string // with a slash at the end, or empty
}

// ParseMirrors reads the value of MirrorsVariable.
func ParseMirrors(s string) (Mirrors, error) {
	mirrors := Mirrors{}
	for pair := range strings.SplitSeq(s, ",") {
		if pair = strings.TrimSpace(pair); pair == "" {
			continue
		}
		bad := func(err error) error {
			return sandbox.Errorf(sandbox.Invalid, "write it as docker.io=mirror.example.com:5000/path", "%q is not a registry and its mirror: %w", pair, err)
		}
		of, at, ok := strings.Cut(pair, "=")
		if !ok || of == "" || at == "" {
			return nil, bad(fmt.Errorf("there is no %q in it", "="))
		}
		var options []name.Option
		if rest, plain := strings.CutPrefix(at, "http://"); plain {
			at, options = rest, append(options, name.Insecure)
		}
		host, prefix, _ := strings.Cut(strings.TrimPrefix(at, "https://"), "/")
		reg, err := name.NewRegistry(host, options...)
		if err != nil {
			return nil, bad(err)
		}
		if prefix = strings.Trim(prefix, "/"); prefix != "" {
			prefix += "/"
		}
		mirrors[of] = append(mirrors[of], Mirror{reg, prefix})
	}
	return mirrors, nil
}

// of returns where an image's repository is in the mirrors of its registry.
func (m Mirrors) of(n Name) []name.Repository {
	var list []name.Repository
	for _, mirror := range m[n.Registry()] {
		list = append(list, mirror.registry.Repo(mirror.prefix+n.ref.Context().RepositoryStr()))
	}
	return list
}
