// Package oci reads container images: from registries, from archives and layout directories, and from the local stores of
// docker and podman, and flattens one into a tree.
//
// Whatever comes from elsewhere is checked against a digest that is known beforehand (a manifest's, from the registry or the
// user; a layer's, from the manifest; its archive's, from the configuration) and bounded. Layers of registries are kept,
// compressed as they came, in a [Cache], where an interrupted download goes on.
package oci
