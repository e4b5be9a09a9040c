// shown in docs/verify.md from here
import org.springframework.beans.factory.annotation.Value;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.security.oauth2.jwt.JwtDecoder;
import org.springframework.security.oauth2.jwt.JwtValidators;
import org.springframework.security.oauth2.jwt.NimbusJwtDecoder;

@Configuration
class Security {
    @Bean
    JwtDecoder jwtDecoder(@Value("${issuer}") String issuer, @Value("${audience}") String audience) {
        var decoder = NimbusJwtDecoder.withJwkSetUri(issuer + "/.well-known/jwks.json")
            .validateType(false) // otherwise only JWT; the validator below checks for at+jwt
            .build();
        decoder.setJwtValidator(JwtValidators.createAtJwtValidator()
            .issuer(issuer).audience(audience).clientId("urbandata").build());
        return decoder;
    }
}
// shown in docs/verify.md to here
